"""What maintainers run and documents cite: studies, speed, the shipping of pairs. Never in the wheel."""
