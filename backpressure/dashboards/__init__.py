"""What people look at: cards and lines on a terminal, the live page, the run as it goes on. Snapshots in, pictures out."""
