//! A fake Hugging Face hub for tests: a folder of models behind the hub's protocol, with faults on demand.
