"""How much of a network to train, by how much data there is and how near it is."""
