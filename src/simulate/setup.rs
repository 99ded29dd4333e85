//! The configuration that points a worker at the simulator, with the demo credentials.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::dialect::Provider;
use super::es512;
use super::logins::{
    Client, GR4VY_WEBHOOK_SECRET, MIDTRANS_SERVER_KEY, MIGO_NOTIFICATION_TOKEN, MIGO_TOKEN, client,
};

/// Writes `rescind.toml` and `gr4vy.pem` into `dir` for a simulator at `base`; answers the
/// configuration's path. The file holds the six providers only: the rest has defaults.
pub(crate) fn write_config(dir: &Path, base: SocketAddr) -> io::Result<PathBuf> {
    fs::create_dir_all(dir)?;
    // Absolute, since the worker may be started from anywhere.
    let key = dir.canonicalize()?.join("gr4vy.pem");
    fs::write(&key, es512::pem()?)?;
    let config = dir.join("rescind.toml");
    let tables: Vec<String> = Provider::ALL
        .iter()
        .map(|provider| table(*provider, base, &key))
        .collect();
    fs::write(&config, tables.join("\n"))?;
    Ok(config)
}

fn table(provider: Provider, base: SocketAddr, key: &Path) -> String {
    let name = provider.as_str();
    let url = format!("http://{base}/{name}");
    let login = match provider {
        Provider::Migo => format!(
            "token = {}\nnotification_token = {}\n",
            quoted(MIGO_TOKEN),
            quoted(MIGO_NOTIFICATION_TOKEN)
        ),
        Provider::Midtrans => format!("server_key = {}\n", quoted(MIDTRANS_SERVER_KEY)),
        Provider::Gr4vy => format!(
            "private_key_file = {}\nmerchant_account_id = \"default\"\nwebhook_secrets = [{}]\n",
            quoted(&key.to_string_lossy()),
            quoted(GR4VY_WEBHOOK_SECRET)
        ),
        Provider::Bento => oauth(&url, client(provider)),
        Provider::Pismo | Provider::Tingg => own_login(client(provider)),
    };
    format!(
        "[providers.{name}]\nkind = {}\nbase_url = {}\n{login}",
        quoted(name),
        quoted(&url)
    )
}

fn oauth(url: &str, client: Option<Client>) -> String {
    client.map_or_else(String::new, |client| {
        format!(
            "oauth = {{ token_url = {}, client_id = {}, client_secret = {} }}\n",
            quoted(&format!("{url}/oauth/token")),
            quoted(client.id),
            quoted(client.secret)
        )
    })
}

fn own_login(client: Option<Client>) -> String {
    client.map_or_else(String::new, |client| {
        format!(
            "client_id = {}\nclient_secret = {}\n",
            quoted(client.id),
            quoted(client.secret)
        )
    })
}

/// A TOML string, with whatever a path may hold escaped.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_file_names_all_six_providers() {
        let dir = tempfile::tempdir().unwrap();
        let base = "127.0.0.1:8630".parse().unwrap();
        let path = write_config(dir.path(), base).unwrap();
        let config: toml::Table = fs::read_to_string(path).unwrap().parse().unwrap();
        let providers = config["providers"].as_table().unwrap();
        assert_eq!(providers.len(), 6);
        let gr4vy = providers["gr4vy"].as_table().unwrap();
        let pem = fs::read_to_string(gr4vy["private_key_file"].as_str().unwrap()).unwrap();
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----"));
        let bento = &providers["bento"]["oauth"]["token_url"];
        let url = "http://127.0.0.1:8630/bento/oauth/token";
        assert_eq!(bento.as_str(), Some(url));
    }
}
