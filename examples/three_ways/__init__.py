"""Three ways to use a pretrained AlexNet: as it is, its convolutions frozen, fine-tuned."""
