// The three services, spoken to over gRPC-web on the origin that served this page.
import { type Client, createClient, type Transport } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { CatalogService } from "../gen/millm/catalog/v1/catalog_pb";
import { DownloaderService } from "../gen/millm/downloader/v1/downloader_pb";
import { RuntimeService } from "../gen/millm/runtime/v1/runtime_pb";

export interface Clients {
  catalog: Client<typeof CatalogService>;
  downloader: Client<typeof DownloaderService>;
  runtime: Client<typeof RuntimeService>;
}

export function clientsOver(transport: Transport): Clients {
  return {
    catalog: createClient(CatalogService, transport),
    downloader: createClient(DownloaderService, transport),
    runtime: createClient(RuntimeService, transport),
  };
}

export function clientsAt(baseUrl: string): Clients {
  return clientsOver(createGrpcWebTransport({ baseUrl }));
}
