//! `millm run`: a chat in the terminal. Ctrl-C stops the answer, Ctrl-D ends the chat.

use std::io::{IsTerminal as _, Read as _, Write as _};

use anyhow::Result;
use millm_kit::{Reason, ServiceError};
use millm_proto::runtime::v1::{
    GenerateRequest, LoadModelRequest, Message, Messages, Sampling, generate_request::Prompt,
};
use rustyline::{DefaultEditor, error::ReadlineError};

use super::load;
use crate::{args::Run, client::Server, output};

const HELP: &str = "/clear forgets the conversation, /bye leaves, Ctrl-C stops an answer";

/// Answers one prompt, or chats until the end of the input.
pub async fn run(server: &Server, args: Run, json: bool) -> Result<()> {
    ensure_loaded(server, &args.model, json).await?;
    let mut chat = Chat::new(server, &args);
    let mut asked = args.prompt.join(" ");
    if asked.is_empty() && !std::io::stdin().is_terminal() {
        std::io::stdin().read_to_string(&mut asked)?;
    }
    if !asked.trim().is_empty() {
        let answer = chat.ask(asked.trim(), !json).await?;
        return if json { output::json(&millm_api::cli::Answer { answer }) } else { Ok(()) };
    }
    eprintln!("{HELP}");
    loop {
        // Reading blocks, so it has a thread of its own.
        match tokio::task::spawn_blocking(read_line).await?? {
            None => return Ok(()),
            Some(line) if line == "/bye" || line == "/exit" => return Ok(()),
            Some(line) if line == "/clear" => chat.clear(),
            Some(line) if line.starts_with('/') => eprintln!("{HELP}"),
            Some(line) if line.is_empty() => {}
            Some(line) => {
                if let Err(error) = chat.ask(&line, true).await {
                    let service = error.downcast_ref::<ServiceError>();
                    eprintln!(
                        "error: {}",
                        service.map_or_else(|| format!("{error:#}"), |e| e.message.clone())
                    );
                }
            }
        }
    }
}

fn read_line() -> Result<Option<String>> {
    match DefaultEditor::new()?.readline(">>> ") {
        Ok(line) => Ok(Some(line.trim().to_owned())),
        Err(ReadlineError::Interrupted) => Ok(Some(String::new())),
        Err(ReadlineError::Eof) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn ensure_loaded(server: &Server, model: &str, json: bool) -> Result<()> {
    let request = LoadModelRequest { model: model.to_owned(), ..LoadModelRequest::default() };
    match load::load_and_watch(server, request, json).await {
        Err(error) => match error.downcast_ref::<ServiceError>() {
            Some(e) if e.reason == Reason::ModelAlreadyLoaded => Ok(()),
            _ => Err(error),
        },
        Ok(_) => Ok(()),
    }
}

struct Chat<'a> {
    server: &'a Server,
    args: &'a Run,
    messages: Vec<Message>,
}

impl<'a> Chat<'a> {
    fn new(server: &'a Server, args: &'a Run) -> Self {
        let mut chat = Self { server, args, messages: Vec::new() };
        chat.clear();
        chat
    }

    fn clear(&mut self) {
        self.messages = self.args.system.iter().map(|text| message("system", text)).collect();
    }

    /// Asks a question, prints the answer as it comes and keeps both. Ctrl-C ends the answer early.
    async fn ask(&mut self, question: &str, print: bool) -> Result<String> {
        self.messages.push(message("user", question));
        let request = GenerateRequest {
            model: self.args.model.clone(),
            prompt: Some(Prompt::Messages(Messages {
                messages: self.messages.clone(),
                tools_json: String::new(),
            })),
            sampling: Some(Sampling {
                temperature: self.args.temperature,
                seed: self.args.seed,
                chat_defaults: true,
                ..Sampling::default()
            }),
            max_tokens: self.args.max_tokens,
            ..GenerateRequest::default()
        };
        let mut answer = String::new();
        let result = self.stream(request, &mut answer, print).await;
        if print {
            output::line("")?;
        }
        if result.is_err() && answer.is_empty() {
            // The question may have caused the error, so the next one starts without it.
            self.messages.pop();
        } else {
            self.messages.push(message("assistant", &answer));
        }
        result.map(|()| answer)
    }

    async fn stream(&self, request: GenerateRequest, answer: &mut String, print: bool) -> Result<()> {
        let mut stream =
            self.server.runtime().generate(request).await.map_err(|s| self.server.explain(&s))?.into_inner();
        loop {
            let next = tokio::select! {
                next = stream.message() => next.map_err(|s| self.server.explain(&s))?,
                // Dropping the stream stops the generation.
                _ = tokio::signal::ctrl_c() => return Ok(()),
            };
            let Some(chunk) = next else { return Ok(()) };
            answer.push_str(&chunk.text);
            if print {
                let mut out = std::io::stdout().lock();
                out.write_all(chunk.text.as_bytes())?;
                out.flush()?;
            }
        }
    }
}

fn message(role: &str, content: &str) -> Message {
    Message { role: role.to_owned(), content: content.to_owned(), ..Message::default() }
}
