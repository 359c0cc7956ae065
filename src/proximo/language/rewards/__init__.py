"""What scores a response: reward models, functions, classifiers and judges."""
