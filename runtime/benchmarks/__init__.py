"""What documents cite of the runtime and users need not install."""
