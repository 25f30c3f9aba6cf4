"""Text to Thinwire shards; `data/prepare.py` is the program."""
