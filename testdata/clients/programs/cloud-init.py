"""cloud-init.py DIRECTORY: runs the EC2 data source of the cloud-init that is unpacked in DIRECTORY, as
the boot does, and prints what it found as JSON. Exit status 1: it found nothing."""

import json
import logging
import sys
import tempfile

sys.path.insert(0, sys.argv[1] + "/usr/lib/python3/dist-packages")

from cloudinit import helpers  # noqa: E402
from cloudinit.sources import DataSourceEc2 as ec2  # noqa: E402

# cloud-init's defaults are minutes, after a refusal too.
CONFIG = {"datasource": {"Ec2": {"max_wait": 2, "timeout": 5}}}

logging.basicConfig(level=logging.WARNING)
with tempfile.TemporaryDirectory() as run:
    source = ec2.DataSourceEc2(CONFIG, None, helpers.Paths({"cloud_dir": run, "run_dir": run}))
    if not source.get_data():
        sys.exit("cloud-init found no data source")
    network = source.metadata.get("network")
    print(json.dumps({
        "cloud": source.cloud_name,
        "version": source._crawled_metadata["_metadata_api_version"],
        "instance-id": source.get_instance_id(),
        "region": source.region,
        "zone": source.availability_zone,
        "hostname": source.get_hostname().hostname,
        "keys": source.get_public_ssh_keys(),
        "launch-index": source.launch_index,
        "document": source.identity.get("pendingTime"),
        "user-data": len(source.get_userdata_raw()),
        "tags": source.metadata.get("tags"),
        "meta-data": sorted(source.metadata),
        # The machine's own interfaces are others: as if each of the instance's were here.
        "network": network and ec2.convert_ec2_metadata_network_config(
            network, {mac: "eth%d" % i for i, mac in enumerate(sorted(network["interfaces"]["macs"]))}),
    }, indent=1, default=str))
