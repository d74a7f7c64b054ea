"""Shared presentation: numbers, colours and consoles, and files of installed packages."""
