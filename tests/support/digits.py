"""A reward for runs of the embedded model, as a file of the user's: the mean digit of a completion."""


def mean_digit(completions: list[str]) -> list[float]:
    """Between 0 and 1; 0 without digits."""
    found = [[int(letter) for letter in text if letter in "0123456789"] for text in completions]
    return [sum(digits) / len(digits) / 9 if digits else 0.0 for digits in found]
