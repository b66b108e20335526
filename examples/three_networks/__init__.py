"""One network trained in three ways: from scratch, all of its pretrained weights, its last layer only."""
