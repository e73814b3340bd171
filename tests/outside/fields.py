"""Print every field, enum value and method of tritonclient's protocol as JSON."""

import json
import sys

from fields_of import describe
from tritonclient.grpc import model_config_pb2, service_pb2

json.dump(describe([service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR]), sys.stdout)
