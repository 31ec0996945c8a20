"""Energy: which meters this machine has, what they read, and the power mode and temperatures that go with them."""
