"""A server of the Model Context Protocol on stdin and stdout, by which assistants query the warehouse."""
