"""A minimal grpc.aio server with ONNX Runtime, without batching. Arguments: GRAPH PORT IMAGE_SHAPE."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import onnxruntime

from service.pb import inference_pb2 as pb
from service.pb import inference_pb2_grpc

graph, port, shape = sys.argv[1], sys.argv[2], [int(size) for size in sys.argv[3].split(",")]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
executor = ThreadPoolExecutor(1)


class Servicer(inference_pb2_grpc.GRPCInferenceServiceServicer):
    async def ModelInfer(self, request, context):  # noqa: N802 # gRPC's name
        images = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(-1, *shape)
        loop = asyncio.get_running_loop()
        (answer,) = await loop.run_in_executor(executor, session.run, None, {"images": images})
        response = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        response.outputs.add(name="probabilities", datatype="FP32", shape=answer.shape)
        response.raw_output_contents.append(answer.tobytes())
        return response


async def main():
    server = grpc.aio.server()
    inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


asyncio.run(main())
