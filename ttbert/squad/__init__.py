"""SQuAD: a data set of questions through a model, scored as the official script scores it, and reported."""
