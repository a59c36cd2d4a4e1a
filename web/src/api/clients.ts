// The three services and the gateway's own, spoken to over gRPC-web on the origin that served this page.
import { type Client, createClient, type Transport } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { CatalogService } from "../gen/millm/catalog/v1/catalog_pb";
import { DownloaderService } from "../gen/millm/downloader/v1/downloader_pb";
import { ModelsService } from "../gen/millm/gateway/v1/gateway_pb";
import { RuntimeService } from "../gen/millm/runtime/v1/runtime_pb";

export interface Clients {
  catalog: Client<typeof CatalogService>;
  downloader: Client<typeof DownloaderService>;
  models: Client<typeof ModelsService>;
  runtime: Client<typeof RuntimeService>;
}

export function clientsOver(transport: Transport): Clients {
  return {
    catalog: createClient(CatalogService, transport),
    downloader: createClient(DownloaderService, transport),
    models: createClient(ModelsService, transport),
    runtime: createClient(RuntimeService, transport),
  };
}

export function clientsAt(baseUrl: string): Clients {
  return clientsOver(createGrpcWebTransport({ baseUrl }));
}
