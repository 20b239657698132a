package xds

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
)

// redacted takes the place of secrets that stand in the configuration.
const redacted = "[redacted]"

// secrets are the fields whose inline data nobody is shown.
var secrets = [...]string{"private_key", "password", "pkcs12", "session_ticket_keys"}

// redact hides the secrets of a message in JSON. What has none stays as it is.
func redact(message json.RawMessage) (json.RawMessage, error) {
	some := false
	for _, name := range secrets {
		some = some || bytes.Contains(message, []byte(`"`+name+`"`))
	}
	if !some {
		return message, nil
	}
	var tree any
	d := json.NewDecoder(bytes.NewReader(message))
	d.UseNumber()
	if err := d.Decode(&tree); err != nil {
		return nil, fmt.Errorf("hide secrets: %w", err)
	}
	hide(tree, false)
	out, err := json.Marshal(tree)
	if err != nil {
		return nil, fmt.Errorf("hide secrets: %w", err)
	}
	return out, nil
}

// hide replaces inline data below secret fields.
func hide(tree any, secret bool) {
	switch v := tree.(type) {
	case []any:
		for _, one := range v {
			hide(one, secret)
		}
	case map[string]any:
		for name, one := range v {
			if secret && strings.HasPrefix(name, "inline_") {
				v[name] = redacted
				if name == "inline_bytes" {
					v[name] = base64.StdEncoding.EncodeToString([]byte(redacted)) // as all bytes are in JSON
				}
				continue
			}
			below := secret
			for _, s := range secrets {
				below = below || name == s
			}
			hide(one, below)
		}
	}
}
