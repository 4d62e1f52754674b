"""Times a training iteration beside what one would use instead."""
