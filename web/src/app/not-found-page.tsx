// The page of an address that has none.
import { Link } from "react-router";

export function NotFoundPage() {
  return (
    <div className="m-auto flex flex-col items-center gap-2 py-16 text-center">
      <h1 className="text-lg font-semibold">There is no such page</h1>
      <Link to="/" className="text-sm font-medium text-accent underline underline-offset-4">
        To the models
      </Link>
    </div>
  );
}
