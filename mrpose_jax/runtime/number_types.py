"""The one place that decides in which number type a network computes (`model.dtype`)."""

import logging
import re

import jax
import ml_collections

log = logging.getLogger(__name__)

AUTO = 'auto'


def choose(dtype: str, device: jax.Device | None = None) -> str:
  """Returns the number type for a device; every type but 'auto' stays as it is.

  'auto' is bfloat16 on TPUs and GPUs. It is float32 on CPUs and on NVIDIA GPUs before Ampere
  (compute capability 8.0), which do not compute in bfloat16 or are slow at it.

  Args:
    dtype: value of `model.dtype`.
    device: the device that computes; by default the first one.
  """
  if dtype != AUTO:
    return dtype
  device = jax.devices()[0] if device is None else device
  before_ampere = re.fullmatch(r'[1-7]\.\d+', str(getattr(device, 'compute_capability', '')))
  return 'float32' if device.platform == 'cpu' or before_ampere else 'bfloat16'


def settle(config: ml_collections.ConfigDict, device: jax.Device):
  """Replaces 'auto' in a configuration by the type for this device, and logs type and precision.

  A run stores the settled configuration, so that its workdir says in which type it computed.
  """
  asked = config.model.dtype
  config.model.dtype = choose(asked, device)
  log.info(
    'the network computes in %s%s on %s, model.precision=%s',
    *(config.model.dtype, ' (model.dtype=auto)' * (asked == AUTO), device.device_kind),
    config.model.precision,
  )


def go_on(config: ml_collections.ConfigDict, stored: dict):
  """Lets 'auto' stand for the type of the run that is continued, also on another kind of device.

  Args:
    config: configuration of this start.
    stored: configuration in the workdir.
  """
  if config.model.dtype != AUTO or stored['model'].get('dtype', AUTO) == AUTO:
    return
  config.model.dtype = stored['model']['dtype']
  suited = choose(AUTO)
  if config.model.dtype != suited:
    log.warning(
      'the run began in %s and goes on in it; %s suits %s better: --config.model.dtype=%s',
      *(config.model.dtype, suited, jax.devices()[0].device_kind, suited),
    )


def tell_change(config: ml_collections.ConfigDict, stored: dict):
  """Logs that an evaluation computes in another type than the run that is evaluated."""
  trained = stored['model'].get('dtype', AUTO)
  if trained not in (AUTO, config.model.dtype):
    log.warning(
      'the run computed in %s, and this evaluation computes in %s; --config.model.dtype=%s uses '
      "the run's own type",
      *(trained, config.model.dtype, trained),
    )
