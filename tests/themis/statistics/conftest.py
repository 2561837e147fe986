"""Settings of the property tests."""

from hypothesis import settings

# A first example pays for imports, and a shared machine may pause at any time.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
