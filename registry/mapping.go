package registry

// Mapping says how the services of a source are taken over, before they are merged with those of the others. The zero
// Mapping takes them as they are. Services are selected by globs as of path.Match, matched against "namespace/name",
// against the name, and against the registry's own spelling; "*" there does not match a slash.
type Mapping struct {
	// Include and Exclude choose services; an empty Include is all of them, Exclude goes before Include.
	Include, Exclude []string
	// Rename gives a service another name: "name" (the namespace stays) or "namespace/name". Keys are no globs.
	Rename map[string]string
	// Namespaces gives all services of a namespace another; "*" stands for every namespace not named. Rename goes before.
	Namespaces map[string]string
	// Ports say what is dialled and spoken, by glob of services; of several that match the longest key is taken.
	Ports map[string]PortMapping
	// Labels are added to every endpoint, over what the registry says.
	Labels map[string]string
}

// PortMapping sets what is not zero of the ports of a service.
type PortMapping struct {
	// Port names the port it is about; "" is for the only one.
	Port     string
	Number   uint16
	Protocol Protocol
}
