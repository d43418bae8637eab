"""The commands: each module is one, with a `main` that reads the command line."""
