//! Builds again when a migration is added: `sqlx::migrate!` only knows those it has read.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
