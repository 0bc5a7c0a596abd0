"""The benchmarks by name."""

NAMES = ('network', 'prediction', 'evaluation', 'start', 'loader', 'scaling')
# Runs on the accelerator that JAX finds, and only where it is asked for.
ACCELERATOR = 'accelerator'


def measure(part, num_turns, scratch, coco_folder, image_set):
  """Runs one benchmark and returns its results; `main` runs each in its own process.

  Modules are imported only when used, because torch may not be installed.
  """
  if part == 'network':
    from benchmarks import network

    return network.run(num_turns)
  if part == 'prediction':
    from benchmarks import prediction

    people = scratch / 'synthetic_people_images'
    annotations = people / 'annotations' / 'person_keypoints_validation.json'
    return prediction.run(num_turns, people / 'images' / 'validation', annotations)
  if part == 'evaluation':
    from benchmarks import evaluation

    return evaluation.run(num_turns)
  if part == 'start':
    from benchmarks import start

    return start.run(num_turns, scratch.absolute())
  if part == 'loader':
    from benchmarks import loader

    return loader.run(num_turns, scratch, coco_folder, image_set)
  from benchmarks import scaling

  return scaling.run(min(num_turns, 3))
