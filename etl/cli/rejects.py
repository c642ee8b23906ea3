"""The quarantine: rejects list, rejects retry."""
