"""The warehouse for assistants: a server of the Model Context Protocol on stdin and stdout."""
