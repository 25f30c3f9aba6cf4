"""The rows of bench/exchange.py: one file, one function and one command each."""
