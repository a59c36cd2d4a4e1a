// The services that stream, spoken to over gRPC-web on the origin that served this page. Calls with one answer go
// through connect-query, over the same transport.
import { type Client, createClient, type Transport } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { DownloaderService } from "../gen/millm/downloader/v1/downloader_pb";
import { ModelsService } from "../gen/millm/gateway/v1/gateway_pb";
import { InspectionService } from "../gen/millm/inspection/v1/inspection_pb";
import { RuntimeService } from "../gen/millm/runtime/v1/runtime_pb";

export interface Clients {
  downloader: Client<typeof DownloaderService>;
  inspection: Client<typeof InspectionService>;
  models: Client<typeof ModelsService>;
  runtime: Client<typeof RuntimeService>;
}

export function clientsOver(transport: Transport): Clients {
  return {
    downloader: createClient(DownloaderService, transport),
    inspection: createClient(InspectionService, transport),
    models: createClient(ModelsService, transport),
    runtime: createClient(RuntimeService, transport),
  };
}

export function transportTo(baseUrl: string): Transport {
  return createGrpcWebTransport({ baseUrl });
}
