"""What others serve the same model with, each in a virtual environment of its own, and the limits of the machine."""
