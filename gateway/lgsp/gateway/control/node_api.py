"""The node's own API: what its parts are doing, where services are served, and rotation of its token key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from lgsp.api.node.v1 import node_pb2, node_pb2_grpc
from lgsp.gateway.control.instances import Instances
from lgsp.gateway.xds.ads import AdsServer


class NodeServicer(node_pb2_grpc.NodeServiceServicer):
    """`facts` fills in what only the control process knows; `rotate` answers the new and the previous key id;
    `masks` what Envoy could not mask."""

    def __init__(
        self,
        ads: AdsServer,
        facts: Callable[[node_pb2.GetStatusResponse], None],
        rotate: Callable[[], Awaitable[tuple[str, str]]],
        masks: Callable[[], Awaitable[node_pb2.MaskAlarms]],
        instances: Instances,
    ) -> None:
        self._ads, self._facts, self._rotate, self._masks = ads, facts, rotate, masks
        self._instances = instances

    async def GetStatus(
        self, request: node_pb2.GetStatusRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> node_pb2.GetStatusResponse:
        status = node_pb2.GetStatusResponse()
        status.time.GetCurrentTime()
        for connection in self._ads.connections:
            status.proxies.add(node=connection.node, connected=True, pending=connection.pending)
        for rejection in dict.fromkeys(self._ads.rejections.values()):
            nack = status.nacks.add(type_url=rejection.type_url, resources=rejection.names, message=rejection.message)
            nack.time.FromMilliseconds(int(rejection.time * 1000))
        self._facts(status)
        status.masks.CopyFrom(await self._masks())
        return status

    async def RotateTokenKey(
        self, request: node_pb2.RotateTokenKeyRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> node_pb2.RotateTokenKeyResponse:
        kid, previous = await self._rotate()
        return node_pb2.RotateTokenKeyResponse(kid=kid, previous_kid=previous)

    async def ListInstances(
        self, request: node_pb2.ListInstancesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> node_pb2.ListInstancesResponse:
        return await self._instances.list(request)
