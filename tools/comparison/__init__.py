"""Methods trained and evaluated under one budget, side by side."""
