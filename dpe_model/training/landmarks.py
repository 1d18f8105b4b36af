"""The 68 landmarks of a face in the order of the 300-W annotation, by part."""

JAW, BROWS, NOSE, EYES, MOUTH = range(17), range(17, 27), range(27, 36), range(36, 48), range(48, 68)
RIGHT_EYE, LEFT_EYE = EYES[:6], EYES[6:]
"""The person's own right and left; each from one corner over the upper lid to the other, and back below."""

EXPRESSIVE = (BROWS, EYES, MOUTH)
"""What carries an expression."""
