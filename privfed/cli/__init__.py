"""The command line: `privfed`, the run file, what it prints."""
