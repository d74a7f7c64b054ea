"""What everything that is shown has in common: numbers, colours, and files of installed packages."""
