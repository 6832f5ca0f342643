"""`ray`, its nodes on 127.0.0.1 and only there.

    python ray_on_loopback.py start --node-ip-address 127.0.0.1 ...

`ray start` takes the machine's outer address instead of 127.0.0.1 and listens on all interfaces, since its nodes are
meant for many machines. With RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 drivers and workers keep to loopback, but `ray start`
then refuses a second node. Both are undone here, for this process.
"""

from ray._private import ray_constants, services
from ray.scripts.scripts import main

ray_constants.ENABLE_RAY_CLUSTER = True
services.resolve_ip_for_localhost = lambda host: host

if __name__ == "__main__":
    main()  # type: ignore[no-untyped-call]  # of Ray
