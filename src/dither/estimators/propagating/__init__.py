"""Back-propagation through hard samples: biased, with little variance."""
