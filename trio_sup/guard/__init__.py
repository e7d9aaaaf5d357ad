"""The guards: small processes that end every backend tree when the supervisor ends, however it ends.

Everything here uses the standard library only and imports nothing else of trio-sup.
"""
