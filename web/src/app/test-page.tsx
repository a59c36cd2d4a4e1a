// Renders a component against services played by a test.
import { createRouterTransport, type ServiceImpl } from "@connectrpc/connect";
import { render } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import type { ReactNode } from "react";
import { clientsOver } from "../api/clients";
import { ApiProvider } from "../api/context";
import { createLive } from "../api/live";
import { DownloaderService } from "../gen/millm/downloader/v1/downloader_pb";
import { RuntimeService } from "../gen/millm/runtime/v1/runtime_pb";
import { Toasts } from "../ui/toasts";

interface Played {
  downloader?: Partial<ServiceImpl<typeof DownloaderService>>;
  runtime?: Partial<ServiceImpl<typeof RuntimeService>>;
}

export function renderWith(children: ReactNode, { downloader = {}, runtime = {} }: Played = {}) {
  const clients = clientsOver(
    createRouterTransport(({ service }) => {
      service(DownloaderService, downloader);
      service(RuntimeService, runtime);
    }),
  );
  render(
    <ApiProvider api={{ clients, live: createLive() }}>
      <Toasts>{children}</Toasts>
    </ApiProvider>,
  );
  return userEvent.setup();
}
