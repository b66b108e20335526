"""Features on their way between stores: what knows local stores and those behind URLs, and is known by neither."""
