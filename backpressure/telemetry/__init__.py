"""What a process tells about itself: metrics, journals, logs."""
