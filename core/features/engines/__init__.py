"""Engines: what has an extraction done by processes elsewhere, on other machines or on the GPUs of this one.

* An engine is named by plain data (`Ray`), which is importable without its library.
* What is lacking is cut into tasks (`planning`), lists of ids; the store takes the rows (`ways`), and says what is
  done. Neither rows nor images go through an engine.
* What is extracted, and how, is the business of `headstart.features.extractor`, which hands it over as a `Job`
(`work`)."""
