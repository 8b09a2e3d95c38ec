//! Peers that come from PyPI: Envoy, Traefik, Caddy.

use crate::peers::Setting;
use crate::proxies::pypi::program;
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

fn write(folder: &Path, name: &str, document: &Value) -> io::Result<String> {
    let file = folder.join(name);
    fs::write(&file, document.to_string())?;
    Ok(file.to_string_lossy().into_owned())
}

const ENVOY: &str = "type.googleapis.com/envoy.extensions";

fn envoy_address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

/// Envoy with one worker thread.
pub(crate) fn envoy(folder: &Path, listen: [SocketAddr; 2], setting: &Setting<'_>) -> io::Result<Vec<String>> {
    let manager = json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{ENVOY}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "h", "codec_type": "AUTO", "stream_idle_timeout": "0s", "use_remote_address": true, "via": "envoy",
            "common_http_protocol_options": { "idle_timeout": "600s" },
            "http2_protocol_options": { "max_concurrent_streams": 128 },
            "route_config": { "name": "r",
                "request_headers_to_add": [{ "header": { "key": "x-forwarded-host", "value": "%REQ(:authority)%" } }],
                "virtual_hosts": [{ "name": "v", "domains": ["*"],
                    "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "be", "timeout": "0s" } }] }] },
            "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": {
                "@type": format!("{ENVOY}.filters.http.router.v3.Router"), "dynamic_stats": false } }],
        }
    });
    let tls = json!({
        "name": "tls",
        "typed_config": {
            "@type": format!("{ENVOY}.transport_sockets.tls.v3.DownstreamTlsContext"),
            "disable_stateless_session_resumption": true, "disable_stateful_session_resumption": true,
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
                "tls_certificates": [{ "certificate_chain": { "filename": setting.certificate },
                                       "private_key": { "filename": setting.key } }],
            }
        }
    });
    let endpoints: Vec<Value> = setting
        .endpoints
        .iter()
        .map(|endpoint| json!({ "endpoint": { "address": envoy_address(*endpoint) } }))
        .collect();
    let bounds = json!({ "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000 });
    let document = json!({
        "node": { "id": "bench", "cluster": "bench" },
        "stats_config": { "stats_matcher": { "reject_all": true } },
        "static_resources": {
            "listeners": [
                { "name": "plain", "address": envoy_address(listen[0]), "tcp_backlog_size": 4096,
                  "filter_chains": [{ "filters": [manager.clone()] }] },
                { "name": "tls", "address": envoy_address(listen[1]), "tcp_backlog_size": 4096,
                  "filter_chains": [{ "transport_socket": tls, "filters": [manager] }] },
            ],
            "clusters": [{ "name": "be", "type": "STATIC", "connect_timeout": "5s", "lb_policy": "ROUND_ROBIN",
                "load_assignment": { "cluster_name": "be", "endpoints": [{ "lb_endpoints": endpoints }] },
                "circuit_breakers": { "thresholds": [bounds] } }],
        }
    });
    let file = write(folder, "envoy.json", &document)?;
    let arguments = ["-c", &file, "--concurrency", "1", "--disable-hot-restart", "-l", "error"];
    Ok(std::iter::once(program("envoy")).chain(arguments.map(str::to_owned)).collect())
}

/// Traefik with one scheduling thread.
pub(crate) fn traefik(folder: &Path, listen: [SocketAddr; 2], setting: &Setting<'_>) -> io::Result<Vec<String>> {
    let servers: Vec<Value> = setting.endpoints.iter().map(|e| json!({ "url": format!("http://{e}") })).collect();
    let router = |entry: &str| json!({ "rule": "PathPrefix(`/`)", "entryPoints": [entry], "service": "s", "middlewares": ["f"] });
    let mut secure = router("tls");
    if let Some(router) = secure.as_object_mut() {
        router.insert("tls".into(), json!({}));
    }
    let dynamic = json!({
        "http": {
            "routers": { "plain": router("plain"), "tls": secure },
            "middlewares": { "f": { "headers": { "customRequestHeaders": { "Via": "1.1 traefik", "X-Request-Id": "fixed" } } } },
            "services": { "s": { "loadBalancer": { "passHostHeader": true, "serversTransport": "st", "servers": servers } } },
            "serversTransports": { "st": { "maxIdleConnsPerHost": 1024 } },
        },
        "tls": {
            "options": { "default": { "minVersion": "VersionTLS13", "disableSessionTickets": true, "alpnProtocols": ["h2", "http/1.1"] } },
            "stores": { "default": { "defaultCertificate": { "certFile": setting.certificate, "keyFile": setting.key } } },
        },
    });
    let dynamic = write(folder, "dynamic.yml", &dynamic)?;
    let entry = |address: SocketAddr| {
        json!({ "address": address.to_string(), "http2": { "maxConcurrentStreams": 128 },
                "transport": { "respondingTimeouts": { "readTimeout": "0s", "idleTimeout": "600s" } } })
    };
    let document = json!({
        "entryPoints": { "plain": entry(listen[0]), "tls": entry(listen[1]) },
        "providers": { "file": { "filename": dynamic } },
        "log": { "level": "ERROR" },
        "global": { "checkNewVersion": false, "sendAnonymousUsage": false },
    });
    let file = write(folder, "traefik.yml", &document)?;
    Ok(vec!["env".into(), "GOMAXPROCS=1".into(), program("traefik"), format!("--configFile={file}")])
}

/// Caddy with one scheduling thread.
pub(crate) fn caddy(folder: &Path, listen: [SocketAddr; 2], setting: &Setting<'_>) -> io::Result<Vec<String>> {
    let upstreams: Vec<Value> = setting.endpoints.iter().map(|e| json!({ "dial": e.to_string() })).collect();
    let routes = json!([{ "handle": [{ "handler": "reverse_proxy", "upstreams": upstreams,
        "headers": { "request": { "set": { "X-Request-Id": ["{http.request.uuid}"], "Via": ["1.1 caddy"] } } },
        "load_balancing": { "selection_policy": { "policy": "round_robin" } },
        "transport": { "protocol": "http", "compression": false,
                       "keep_alive": { "max_idle_conns": 4096, "max_idle_conns_per_host": 1024 } } }] }]);
    let server = |address: SocketAddr, protocols: &[&str]| {
        json!({ "listen": [address.to_string()], "protocols": protocols, "idle_timeout": "600s",
                "automatic_https": { "disable": true }, "routes": routes })
    };
    let mut secure = server(listen[1], &["h1", "h2"]);
    if let Some(server) = secure.as_object_mut() {
        server.insert(
            "tls_connection_policies".into(),
            json!([{ "protocol_min": "tls1.3", "alpn": ["h2", "http/1.1"] }]),
        );
    }
    let document = json!({
        "admin": { "disabled": true, "config": { "persist": false } },
        "logging": { "logs": { "default": { "level": "ERROR" } } },
        "apps": {
            "http": { "servers": { "plain": server(listen[0], &["h1"]), "tls": secure } },
            "tls": { "certificates": { "load_files": [{ "certificate": setting.certificate, "key": setting.key }] },
                     "session_tickets": { "disabled": true } },
        },
    });
    let file = write(folder, "caddy.json", &document)?;
    Ok(vec!["env".into(), "GOMAXPROCS=1".into(), program("caddy"), "run".into(), "--config".into(), file])
}
