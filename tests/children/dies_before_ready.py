"""Writes 30 lines to stderr and ends with code 3, never having listened."""

import sys

for number in range(30):
    print(f"line {number}", file=sys.stderr)
sys.exit(3)
