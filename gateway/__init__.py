"""One endpoint in front of pipeline APIs of unlike dialects.

Nothing is imported here, so that every module can be imported alone.
"""

__version__ = "0.1.0"
