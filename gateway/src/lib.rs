//! One port for gRPC, gRPC-web, OpenAI REST, management REST and the web app.
