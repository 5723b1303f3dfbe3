module github.com/kolekt/commerce/internal/bench

go 1.26.0

require (
	github.com/kolekt/commerce v0.0.0
	github.com/stretchr/testify v1.12.1
	github.com/stripe/stripe-go/v76 v76.25.0
)

require (
	github.com/Rhymond/go-money v1.0.15 // indirect
	github.com/goccy/go-yaml v1.19.2 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)

replace github.com/kolekt/commerce => ../..
