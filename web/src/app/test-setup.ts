// Test environment: unmounts what a test rendered, and waits as long as a busy machine needs to load a lazy component.
import { cleanup, configure } from "@testing-library/react";
import { toast } from "sonner";
import { afterEach } from "vitest";

configure({ asyncUtilTimeout: 20_000 });

afterEach(() => {
  cleanup();
  toast.dismiss();
});
