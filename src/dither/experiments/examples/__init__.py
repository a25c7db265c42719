"""The programs in examples/, trained, audited and timed."""
