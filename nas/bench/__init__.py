"""Measurements side by side: ours and the peers in one alternating run, answers checked before times are taken."""
