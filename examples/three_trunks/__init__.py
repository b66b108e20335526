"""Three pretrained trunks as bottlenecks, beside a small network trained from scratch."""
